"""Virtual machines: their records. The machines themselves are not part of this version."""
