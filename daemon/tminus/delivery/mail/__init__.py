"""Mail to the people who are invited to a session: the delivery worker treats it as one more endpoint.

=============  ================================================================================================
`plan`         decide who gets a mail about an event, and which
`templates`    subject, text and HTML, in two languages; a site may replace them
`message`      the mail as it is sent: header, text, HTML and calendar entry
`smtp`         one connection to the mail server, and what its answers mean
`sender`       send the mails of an event, and record what became of each
=============  ================================================================================================

The modules that need `aiosmtplib` and `icalendar` are imported only if mail is configured.
"""
