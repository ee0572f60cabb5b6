"""Features of projects, and their sub-features: what is to be built, and how far it is."""
