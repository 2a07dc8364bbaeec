"""A picture and an age in years -> a picture: the facade under the command line, notebooks and the browser."""

from cyclegan_age.inference.ager import Ager
from cyclegan_age.inference.crops import Letterboxed, demo_portrait

__all__ = ["Ager", "Letterboxed", "demo_portrait"]
