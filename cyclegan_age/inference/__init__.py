"""A picture and an age in years -> a picture: the facade under the command line, notebooks and the browser."""

from cyclegan_age.inference.ager import Ager
from cyclegan_age.inference.crops import Fitted, demo_portrait

__all__ = ["Ager", "Fitted", "demo_portrait"]
