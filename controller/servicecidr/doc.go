// Package servicecidr makes ServiceCIDRs ready to have addresses given out of them, and keeps one that is being deleted until
// no Service would be left with an address of no range (KEP-1880).
//
// Every ServiceCIDR gets the finalizer networking.k8s.io/service-cidr-finalizer and the condition Ready=True. Ranges may
// overlap. One that is being deleted goes when other ServiceCIDRs contain its ranges, or when each IPAddress of the allocator
// in it is also in another one; until then it is Ready=False for the reason Terminating. It goes ten seconds after its
// deletion at the earliest, when every server knows that it gives out no more.
//
// One queue of names, one worker; the plan is pure. What blocks a deletion is looked at when an IPAddress or a ServiceCIDR
// goes or comes, never by time.
package servicecidr
