"""Where rows come from: databases, APIs and files, each a module."""
