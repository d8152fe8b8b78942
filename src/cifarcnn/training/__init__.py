"""Training: from settings to the best model.

Read ``training`` first, then ``preparation`` (what is chosen), ``assembly`` and ``twin`` (the network made
fast), and ``loop`` (the epochs).
"""
