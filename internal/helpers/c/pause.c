// SPDX-License-Identifier: Apache-2.0
//
// pause holds a pod's namespaces open. It ends on TERM and INT, and collects the children that a shared PID namespace
// leaves to it as process 1.

#include "sys.h"

#include <asm/signal.h>
#include <asm/siginfo.h>

#ifndef WNOHANG
#define WNOHANG 1
#endif

void entry(long *stack)
{
	(void)stack;
	// All signals stay blocked and are fetched one by one: a blocked signal reaches even a process 1 that has no handler
	// for it, and no handler means no stack frame, no restorer and no race with the wait below.
	unsigned long all = ~0UL;
	sys4(__NR_rt_sigprocmask, SIG_BLOCK, &all, 0, sizeof(all));
	for (;;) {
		long sig = sys4(__NR_rt_sigtimedwait, &all, 0, 0, sizeof(all));
		if (sig == SIGTERM || sig == SIGINT)
			quit(0);
		if (sig == SIGCHLD)
			while (sys4(__NR_wait4, -1, 0, WNOHANG, 0) > 0)
				;
	}
}
