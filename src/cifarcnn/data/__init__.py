"""The images: CIFAR-10 found, fetched and verified; folders and picture files of a user's own.

Read ``sources`` first: it finds the data set. ``cifar10`` says what that is.
"""
