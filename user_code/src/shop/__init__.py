"""The example migration, for users to copy: a legacy shop moves into a new one."""
