"""Where rows go: each kind of target a module."""
