"""What trainings leave on disk: a run's directory, its progress and its checkpoints; many runs in one table.

Read ``run`` first. Nothing here trains.
"""
