"""How good a model is: scores, tables, examples to look at and listen to."""
