"""Telling somebody: `site.notify` names receivers, an attempt sends them what became of its launch.

receivers   what site.notify says, and what is wrong with it
message     a message, and the shapes that Slack, Discord and Teams take
send        to a command, an address or a mailbox; whatever happens there harms nothing here
notices     what there is to tell of a launch, once for all of its runs
"""
