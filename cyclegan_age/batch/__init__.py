"""Age many pictures, with several processes or machines."""
