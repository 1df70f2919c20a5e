from hypothesis import settings

# The first example of a test may train its tokenizer, and machines that run tests are busy.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
