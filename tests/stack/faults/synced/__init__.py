"""A connection of the emulated Airbyte, and the entity behind it."""
