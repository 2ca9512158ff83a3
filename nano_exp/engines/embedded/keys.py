def check(config):
    pass
