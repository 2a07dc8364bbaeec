"""`prepare.py label`: unlabelled faces get ages, groups and sexes, estimated and then confirmed by hand."""
