"""`sidecar init OPENAPI`: an OpenAPI 3 document -> a first set of documents. Text in, texts out.

`tree` reads the file within bounds; `security` says what its schemes are here; `templates` brings
path templates into patterns and keeps those that overlap apart; `read` makes one description of it,
and `write` the documents. Never does a rule admit what the description does not, by its own rule
that a concrete path goes before a templated one; what cannot be said stays refused, and is told.
"""
