"""What `medseg.train` is made of: the run and its folder, its pace, its checkpoints, its validation."""
