"""The daemon itself: health, status, the list of commands, settings, backups, shutdown."""
