"""Studies of quality: systems trained alike on the same data, and what can be said of their differences."""
