// SPDX-License-Identifier: Apache-2.0

// Package logs reads, follows and rotates the logs of containers, in the format of the CRI:
//
//	2026-11-21T22:41:07.123456789Z stdout F the line
//
// with P instead of F for a part of a line that goes on in the next entry. Of a container's log N.log the older parts are N.log.TIMESTAMP, and
// N.log.TIMESTAMP.gz once they are compressed. A reader starts in the newest file that holds what it was asked for, and
// follows across rotations. It waits by inotify; nothing is polled.
//
// A follower is the caller's goroutine and one that reads inotify; both end with the caller's context. Rotation runs on the caller's goroutine.
package logs
