"""Readers of the files of other trackers. They know no daemon, and change nothing."""
