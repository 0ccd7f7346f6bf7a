"""The pages that customers see: what they are asked for, and what is known of them.

`journeys` says what they need to know and to do, `site` puts them under their addresses.
"""
