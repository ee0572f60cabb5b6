"""Requirements of projects, and the features that meet them."""
