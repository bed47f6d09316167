package compute

// status is what every hostcall returns (FastlyStatus of the ABI).
type status uint32

const (
	statusOK            status = 0
	statusError         status = 1
	statusInvalid       status = 2  // an argument, or an address outside of the memory
	statusBadHandle     status = 3  // of nothing, or of something that was used up
	statusBufferLen     status = 4  // what is to be written is longer; its length is told
	statusUnsupported   status = 5  // SDKs ask for this one, and do without
	statusBadAlign      status = 6  // an address that is not a multiple of what is there
	statusHTTPInvalid   status = 7  // the other side does not speak HTTP
	statusHTTPUser      status = 8  // the guest asked for what HTTP forbids
	statusIncomplete    status = 9  // the other side broke off
	statusNone          status = 10 // there is no such value
	statusHeadTooLarge  status = 11
	statusInvalidStatus status = 12
	statusLimit         status = 13
	statusAgain         status = 14 // not yet
)
