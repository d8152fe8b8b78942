"""The commands, one module each. They parse, call one library function and render; nothing else."""
