"""`prepare.py label`: ages, age groups and sexes of unlabelled faces, estimated and then confirmed by hand."""
