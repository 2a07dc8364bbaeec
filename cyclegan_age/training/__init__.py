"""Training: the step on a device, its schedule, what is saved of it, and the loop around them."""
