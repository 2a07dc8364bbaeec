"""Many pictures -> numbers: do the faces look their age, like themselves, and like photographs?"""
