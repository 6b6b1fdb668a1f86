"""Published toys and tables, reproduced with the selectors of slot_rl and compared with the published figures."""
