from speechbrain_mamba.ops.triton import interpreter
