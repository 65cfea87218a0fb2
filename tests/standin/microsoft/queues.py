"""How Microsoft's tests of queues without sessions (`test_queues.py`) run on session queues, and which of them cannot."""

from __future__ import annotations

_MESSAGE_LOCK = "uses the lock of a single message, but messages of a session have none"
_NO_SESSION_ID = "expects that received messages have no session id"
_TWO_RECEIVERS = "opens two receivers at once, but one session has one holder"
_NO_SERVER = "uses no server"

#: The tests that cannot run, without `test_`, and the reason.
NOT_APPLICABLE: dict[str, str] = {
    "github_issue_6178": _MESSAGE_LOCK,
    "queue_by_servicebus_client_iter_messages_simple": _MESSAGE_LOCK,
    "queue_message_expiry": _MESSAGE_LOCK,
    "queue_message_lock_renew": _MESSAGE_LOCK,
    "queue_message_receive_and_delete": _MESSAGE_LOCK,
    "queue_by_queue_client_conn_str_receive_handler_with_autolockrenew": _MESSAGE_LOCK,
    "queue_by_queue_client_conn_str_receive_handler_with_auto_autolockrenew": _MESSAGE_LOCK,
    "queue_by_servicebus_client_renew_message_locks": _MESSAGE_LOCK,
    "queue_receive_handler_with_autolockrenew_many_msgs": _MESSAGE_LOCK,
    "queue_receive_keep_conn_alive": _MESSAGE_LOCK,
    "queue_receiver_invalid_autolockrenew_mode": _MESSAGE_LOCK,
    "queue_by_queue_client_conn_str_receive_handler_release_messages": _MESSAGE_LOCK,
    "queue_by_queue_client_conn_str_receive_handler_peeklock": _NO_SESSION_ID,
    "queue_by_queue_client_conn_str_receive_handler_receiveanddelete": _NO_SESSION_ID,
    "queue_by_queue_client_send_multiple_messages": _NO_SESSION_ID,
    "queue_complete_message_on_different_receiver": _TWO_RECEIVERS,
    "queue_by_queue_client_peek_and_receive": _TWO_RECEIVERS,
    "queue_mock_auto_lock_renew_callback": _NO_SERVER,
    "queue_mock_no_reusing_auto_lock_renew": _NO_SERVER,
    "queue_message_properties": _NO_SERVER,
    "queue_message_http_proxy_setting": _NO_SERVER,
    "send_message_alternate_body_types": _NO_SERVER,
    "queue_by_queue_client_conn_str_receive_handler_receiveanddelete_prefetch": (
        "waits for a further message as long as the session's lock lasts, 10 seconds, and uses the receiver afterwards"
    ),
    "queue_receive_iterator_resume_after_link_detach": (
        "expects that a receiver goes on after a detach, but the SDK ends a receiver with a session"
    ),
    "queue_by_servicebus_client_session_fail": "expects that a queue without sessions refuses a receiver with a session",
    "queue_by_servicebus_client_iter_messages_with_retrieve_deferred_receiver_complete": (
        "receives messages of another session with a receiver without a session"
    ),
    "queue_message_settle_through_mgmt_link_due_to_broken_receiver_link": (
        "detaches the receiver's link and settles afterwards, but the lock of a session ends with its link"
    ),
    "queue_send_dict_messages": "fills a batch of 73 bytes with a message that has no session id",
    "queue_by_servicebus_client_fail_send_messages": (
        "expects the limit of Azure's standard tier, 256 KB. The endpoint takes 1 MB"
    ),
}
#: The tests that run alone. The first two replace parts of the SDK for all threads. The third must make eleven requests
#: before its messages are due.
ALONE = ("queue_operation_negative", "queue_mgmt_operation_timeout", "state_scheduled")
#: A test that also leaves its replacement behind, so that it runs last.
LAST = ("queue_receive_handler_peek_check_uniq_corr_id",)
