def prepare_fsdd(**k):
    raise NotImplementedError
