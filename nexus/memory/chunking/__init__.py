"""The groundwork of a code index: the files of a folder, their chunks, what to write of them, and the repository's map.

Clients use it: it reads the files of the person who calls, which may be on another host than the daemon, and the parser
of Python holds a thread for up to a second for one file. An index is meant to be made so:

1. ``listing.list_files(root, under)`` gives the paths, relative to the root of the project. A listing that is
   ``truncated`` is refused or told, since what is not in it must not be deleted. A path of one file needs no listing.
2. The rows of the index (id, file, hash, lines; no contents) are read in pages, those below ``under`` alone, into a
   ``planning.Planner``.
3. ``reading.chunk_files(root, files)`` yields one file after the other; ``planner.add(file, chunks)`` gives what is
   certain after each, ``planner.finish()`` the rest. A skipped file is added with no chunks: what was indexed of it
   goes.
4. ``planning.batches(operations)`` gives lists of bounded size, for one request and one transaction each. All can be
   repeated: an index that ended half way is continued by the next one, which writes only what is missing.

A second index without changes plans nothing. A renamed file changes the file of its rows, an edit the rows of what was
edited, and the lines of what follows; embeddings stay with the rows. ``Create.like`` names a row whose embedding can be
copied.

``chunk_files`` is a generator: a caller with other work takes a file in turns, or runs it in a thread or a process of
its own; a chunk can be pickled. ``drawing.draw_map`` draws the map, and ``symbols`` finds symbols. ``symbols`` and
``planning`` are for the daemon, too: they load no parser and nothing of a terminal.
"""
