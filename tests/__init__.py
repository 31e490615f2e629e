"""The tests; `helpers` is what several files share."""
