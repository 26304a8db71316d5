"""Masks on small models that were truly pre-trained, and on real target data: clean, or with corruption that is known token by token."""
