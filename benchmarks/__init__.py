"""Measurements that use slot_rl and are no part of it: reproductions of published figures, studies, speed."""
