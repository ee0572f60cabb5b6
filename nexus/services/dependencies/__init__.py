"""What services need of each other: the edges, the conditions of a start, lost dependencies, tunnels."""
