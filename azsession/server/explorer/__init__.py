"""The Explorer: a web interface to the queues, sessions, messages and dead letters of a gateway.

`http.app` hands the requests for `/explorer` to `mount.ExplorerMount`. Templates on the server make the pages, and they work
without JavaScript, except that they do not update by themselves. It needs jinja2. The modules:

* `mount` decides which requests are for the Explorer, and loads the rest at the first of them.
* `explorer` finds the page of a request, and turns errors into pages.
* `page_request` reads a request: its query, form, cookies and address.
* `sign_in` and `sign_in_tokens` sign users in with a key of the gateway; `throttle` bounds the guesses.
* `queue_pages`, `message_pages`, `dead_letter_pages` and `send_page` make the pages, and `rights` knows who may do what.
* `dead_letter_steps` resubmits or deletes many dead letters in bounded steps.
* `audit` logs the actions of users.
* `backend` calls the broker, and `transport` describes what the HTTP server does for the Explorer.
* `body_views` and `shown_text` prepare the contents of messages, which can be hostile, for a page.
* `rendering` renders the templates, and has the headers of all answers.
"""
