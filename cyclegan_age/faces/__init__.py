"""Photographs: faces found, brought to the training's frame, and what was done to them put back."""
