"""The daemon itself: is it well, what can it do, its settings, its backups, its end."""
