"""Training: the step on a device, the schedule, checkpoints, and the loop."""
