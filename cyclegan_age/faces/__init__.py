"""Photographs: face detection, alignment to the training's frame, and blending the changes back."""
