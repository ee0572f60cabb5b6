"""Nearest by cosine: exact, in a process of its own, over a matrix file that is derived from the rows of the database.

``index.VectorIndex`` is the daemon's side, ``validation`` checks vectors, ``errors`` has what can go wrong. The daemon
never loads numpy nor a matrix: it sends the process a query and gets ids and scores.

What the database must have
---------------------------

The process opens the database, only reads, and knows these tables alone (``store.py`` has the statements)::

    episodes (id TEXT, project_id TEXT, embedding BLOB, …)         -- the collection "episodes"
    code_chunks (id TEXT, project_id TEXT, embedding BLOB, …)      -- the collection "chunks"

    CREATE TABLE vector_collection (
        project_id TEXT NOT NULL,
        collection TEXT NOT NULL,          -- episodes, chunks
        dimension INTEGER NOT NULL,        -- 1 to 8192, fixed by the first embedding
        generation INTEGER NOT NULL,       -- 1 more with each transaction, or each row, that changes an embedding
        changed_at INTEGER NOT NULL,       -- the ms of that change
        PRIMARY KEY (project_id, collection)
    );
    CREATE TABLE vector_change (
        project_id TEXT NOT NULL,
        collection TEXT NOT NULL,
        generation INTEGER NOT NULL,       -- that of vector_collection after the change
        record_id TEXT NOT NULL,           -- whose embedding was set, changed or removed, or which was deleted
        changed_at INTEGER NOT NULL,       -- that of vector_collection after the change
        PRIMARY KEY (project_id, collection, generation, record_id)
    );

- Both tables of records need an index that begins with ``project_id`` and no column after it, so that their rows are
  read in the order in which they are stored. ``id`` has an index of its own, and is unique.
- ``embedding`` is NULL, or ``4 * dimension`` bytes: float32, little-endian, as ``validation.embedding`` returns it. It
  is kept as it was given: the matrix has it at length 1. Rows with another length, with NaN, infinity or only zeros are
  left out of the matrix and counted (``Synced.skipped``). Ids have no line break.
- The generation rises in the transaction that changes an embedding, and so do the rows of ``vector_change``. The
  generation of a collection never falls and is never used again: ``vectors reset`` and a new dimension raise it, too.
- ``changed_at`` tells a database that was restored from a backup: it may come to a generation that the matrix had in
  another history. So the process asks for the row of ``vector_change`` with the matrix's own generation and time. If it
  is there, the matrix is brought up to date by the rows after it, else it is rebuilt. Hence old rows of
  ``vector_change`` may be deleted at any time, the lowest generations first and a generation as a whole; the last
  10,000 of a collection are enough. Neither table is journaled, and neither needs to be undone by itself.
- When a project is deleted: its rows of both tables, and ``VectorIndex.forget``.

The files
---------

``<database>-vectors/<collection>/<project id>.f32`` has a header of 4096 bytes (magic, version, dimension, count,
generation, time, state, the checksum of the file beside it, its own checksum) and the rows; ``<project id>.ids`` the
CRC-32 of each block of rows (256 KiB) and the ids in the order of the rows. Every checksum is verified when the process
first opens a matrix, and again when another program has changed one of the files. A matrix that is missing, damaged, of
another version, or was being changed when a process was killed, is rebuilt at the next call. No backup has these files.
"""
