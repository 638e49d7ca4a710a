// Package cron understands the schedules of CronJobs: the five fields of crontab(5) (minute, hour, day of the month, month, day
// of the week), names of months and days, steps and lists, the names @hourly, @daily, …, and "@every DURATION".
//
// As in crontab, a day matches when either the day of the month or the day of the week does, unless one of them is "*" or "?".
// Times that a change of the clocks skips do not happen; those it repeats happen once, or for hourly schedules each time.
//
// The API server validates with Parse, the CronJob controller asks Next. Both are pure functions.
package cron
