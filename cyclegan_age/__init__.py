"""Face aging with an age-conditional CycleGAN: train, render, take apart."""
