import time
def test_try(project):
    t=time.time(); r=project.value(); print('first',time.time()-t, r.counts)
    before=project.bytes_of_warehouse()
    t=time.time(); r=project.value(); print('second',time.time()-t, r)
    after=project.bytes_of_warehouse()
    print([k for k in after if before.get(k)!=after[k]], {k:len(v) for k,v in after.items()})
    t=time.time(); r=project.train(); print('train',time.time()-t, r)
    t=time.time(); r=project.train(); print('train2',time.time()-t, r)
