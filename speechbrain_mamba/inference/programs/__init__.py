"""What trained models compute, as modules that ``torch.export`` traces: whole recordings, steps of decoders, and pieces
of streams.

Such a module takes tensors, and as its last argument a list of states if it has some; states have the batch first.
"""
