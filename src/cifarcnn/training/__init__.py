"""Training: from settings to the best model.

Read ``train`` first, top to bottom. ``setup`` chooses images, hardware and devices; ``augment`` draws what
each step sees, ``model`` makes the network fast, ``optimizer`` updates it, ``callbacks`` watch it.
"""
