"""One YAML file a method, plus base.yaml for what all methods share on a data set."""
