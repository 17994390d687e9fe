"""Loaders: one file a data set (or family), each turning files on disk into the containers of `images.py`."""
