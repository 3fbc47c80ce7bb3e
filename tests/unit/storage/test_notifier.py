"""The notifier: a notification from any thread wakes all coroutines that wait for events."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from tminus.storage.notifier import Notifier, wait_for

LONG = 10.0
"""Seconds that a wait takes only if the notifier is broken."""


def test_a_notification_from_another_thread_wakes_all_waiting_coroutines() -> None:
    async def listen() -> list[bool]:
        notifier = Notifier()
        waits = [asyncio.create_task(wait_for(notifier.next_notification(), LONG)) for _ in range(3)]
        await asyncio.sleep(0)  # the tasks begin to wait
        with ThreadPoolExecutor() as pool:
            pool.submit(notifier.notify).result()
        return await asyncio.gather(*waits)

    assert asyncio.run(listen()) == [True, True, True]


def test_a_notification_before_the_wait_begins_is_not_lost() -> None:
    async def listen() -> bool:
        notifier = Notifier()
        notification = notifier.next_notification()
        thread = threading.Thread(target=notifier.notify)
        thread.start()
        thread.join()
        assert not notification.is_set(), "only the thread of the event loop sets an asyncio event"
        await asyncio.sleep(0)  # the loop sets it before the wait begins
        assert notification.is_set()
        return await wait_for(notification, LONG)

    # In debug mode, the loop accepts calls from other threads only by `call_soon_threadsafe`, which also wakes it.
    assert asyncio.run(listen(), debug=True)


def test_each_notification_ends_one_wait() -> None:
    async def listen() -> None:
        notifier = Notifier()
        for _ in range(3):
            notification = notifier.next_notification()
            notifier.notify()
            notifier.notify()
            assert await wait_for(notification, LONG)
            assert not notifier.next_notification().is_set()
        assert not await wait_for(notifier.next_notification(), 0.001)

    asyncio.run(listen())


def test_no_notification_of_a_busy_writer_is_lost() -> None:
    written = 0

    async def listen() -> None:
        notifier = Notifier()

        def write() -> None:
            nonlocal written
            for _ in range(500):
                written += 1
                notifier.notify()

        writer = threading.Thread(target=write)
        writer.start()
        seen = 0
        while seen < 500:
            notification = notifier.next_notification()
            if seen == written:
                assert await wait_for(notification, LONG), f"not woken after {seen} of {written}"
            seen = written
        writer.join()

    asyncio.run(listen())


def test_a_notification_is_forgotten_if_no_coroutine_waits() -> None:
    async def listen() -> bool:
        notifier = Notifier()
        notifier.notify()
        assert vars(notifier) == vars(Notifier()), "it stores nothing"
        return await wait_for(notifier.next_notification(), 0.001)

    assert asyncio.run(listen()) is False, "a coroutine reads earlier events before it waits"


def test_notify_may_be_called_after_the_loop_has_closed() -> None:
    notifier = Notifier()

    async def listen() -> None:
        notifier.next_notification()

    asyncio.run(listen())
    notifier.notify()
    notifier.notify()
