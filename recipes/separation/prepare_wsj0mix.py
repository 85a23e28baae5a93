def prepare_wsj0mix(**k):
    raise NotImplementedError
